"""Network families in torch; one folder each with the same file names."""
