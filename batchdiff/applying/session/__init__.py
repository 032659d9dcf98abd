"""The context of one command: held images, the journal, a request to stop."""
