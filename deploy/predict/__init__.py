"""Networks applied to images, folders and films."""
