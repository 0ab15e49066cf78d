//! The block graph: nodes, edges, transactions, permissions, drain and the request core.
