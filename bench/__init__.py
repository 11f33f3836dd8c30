"""The benchmark suite: real layers, fastdeconv and its peers side by side, checked before they are timed."""
