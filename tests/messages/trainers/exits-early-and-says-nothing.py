# A command that ends with 0 and has done nothing.
print("hello")
