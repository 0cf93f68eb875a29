"""What strangers may do to a bundle; scripts/make_bundle_corpus.py writes it for both languages."""
