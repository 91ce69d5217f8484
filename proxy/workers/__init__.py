"""Processes of our own modules that do work which must not stop the server, within limits of memory and time."""
