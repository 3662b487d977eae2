"""What becomes of a run: comparison with another, history for a CI job, figures, the page."""
