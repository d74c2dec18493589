"""`glimpse attention`: where agents look, against the boxes of the dogs."""
