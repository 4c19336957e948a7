"""Does the doors room keep its word?"""
