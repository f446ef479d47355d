"""What the tests of a contract say now, and what evidence says of them."""
