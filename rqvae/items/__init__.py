"""Items in: feature files, shards, texts and P5 data -> a table with item IDs -> batches; the built-in catalogue."""

DEFAULT_ENCODER = "sentence-transformers/sentence-t5-xl"    # of texts; the field's usual choice; 768 wide
