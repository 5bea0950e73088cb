"""Bytes from folders and archives, pictures and masks from bytes; nothing here knows a data set."""
