"""Keys and tenants: who calls, and what the key allows."""
