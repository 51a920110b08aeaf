"""The nouns: frozen types that every room reads. numpy and the standard library only."""
