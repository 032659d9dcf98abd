"""Plans and results as text, HTML, Markdown, CSV and JSON."""
