"""Counting and describing models."""

from .summary import Summary, summarize

__all__ = ["Summary", "summarize"]
