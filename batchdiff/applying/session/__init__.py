"""What all guests of one command share: held images, the journal, a request to stop."""
