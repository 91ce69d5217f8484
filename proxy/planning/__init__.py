"""What a pull will do, decided from small files and headers: pure, no I/O."""
