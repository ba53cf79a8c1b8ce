"""Phase 1: reasoning distillation. A student learns a teacher's traces, and its token distributions."""
