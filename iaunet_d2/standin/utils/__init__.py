"""Helpers around training: files, logging, events, processes, pictures."""
