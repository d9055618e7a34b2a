"""What IDs are worth: figures and their verdicts, in words, as a page, as a picture. Knows no command line."""
