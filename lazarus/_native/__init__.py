"""The only room that cimports: thin doors to csrc/. Each releases the GIL around one C call and maps its code."""
