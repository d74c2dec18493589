"""The paper's Table 1 and figures, and variants of the method."""
