"""Result documents as one HTML page with plots, and as Markdown."""
