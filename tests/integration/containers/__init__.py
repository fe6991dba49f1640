"""Sessions in containers of a real engine, in a network namespace of their own."""
