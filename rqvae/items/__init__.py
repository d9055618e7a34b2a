"""Items in: feature files, shards, texts and P5 data -> a table with item IDs -> batches; the built-in catalogue."""

DEFAULT_ENCODER = "sentence-transformers/sentence-t5-xl"    # of texts; the field's usual choice; 768 wide, 2.5 GB
SMALL_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"    # 384 wide, 90 MB
