"""The inbox: which files have arrived and are whole, and the ledger of what became of them and of their batches."""
