"""Classical codecs behind the same Codec contract, to compare with."""
