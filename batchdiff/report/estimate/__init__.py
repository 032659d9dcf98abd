"""An estimate of savings as text or JSON."""
