"""The only room that cimports: thin doors to csrc/. Each function releases the GIL around one C call and maps its code."""
