"""ZeqKeyEx and the first seed of ZeqSSL, as the seeds have them: a published key to encapsulate to."""
