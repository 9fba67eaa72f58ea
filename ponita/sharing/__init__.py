"""Weight sharing: adapters and regularisers for networks of this package."""
