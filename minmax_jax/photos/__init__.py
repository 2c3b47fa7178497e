"""Explaining one's own photos: files in, overlays, contact sheets, raw maps and a page out."""
