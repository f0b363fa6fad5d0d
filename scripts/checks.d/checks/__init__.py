"""Checks of the documents and of the language of the project."""
