"""All that clients, dispatcher and workers say to each other, and how it travels. Knows no torch."""
