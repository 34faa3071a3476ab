"""Floor 3: what a user drags. Each node unpacks its inputs, makes one call, and packs the answer."""
