"""Pure cryptographic cores: identity, ZeqKeyEx, records, vault. No IO and no clock."""
