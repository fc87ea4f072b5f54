"""Real photographs for the tests: crops of what scikit-image ships, in a COCO-like layout."""
