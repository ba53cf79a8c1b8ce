"""One problem: who draws which samples, when to stop, what is scored and read again, what is answered."""
