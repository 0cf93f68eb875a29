"""JSON logs of benchmark clients, recognised by what they hold; a module a format, and one table of them."""
