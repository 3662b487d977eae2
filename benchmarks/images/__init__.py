"""The images that questions are asked about: real ones made by other people's tools, and derived ones."""
