"""Laws that predict held-out losses from what was varied. They import numpy and scipy, and know no files."""
