"""What must hold before a file is written, published or retired."""
