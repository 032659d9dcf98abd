"""The savings report of a plan: its facts once, and the forms that lay them out."""
