"""The rows of the table of patches, by what they are about."""
