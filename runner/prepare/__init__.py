"""Documents to token shards: readers, filters, tokenizer training, the shard writer."""
