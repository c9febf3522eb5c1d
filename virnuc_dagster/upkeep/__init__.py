"""Care of what is stored: audit, health of checkpoints, removal, imported embeddings, export."""
