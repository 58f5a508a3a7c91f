//! QEVD file formats and protocols.
