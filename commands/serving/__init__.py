"""The page of ``zerolabel serve``: its menu of methods, the work that it has done, its addresses, and who may ask for them."""
