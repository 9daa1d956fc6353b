"""PolyGRAD's world model and imagination."""
