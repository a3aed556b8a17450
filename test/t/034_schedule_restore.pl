# A campaign that is scheduled goes out once, also where its database is restored meanwhile (N3, N14, R28, D12, design.md
# rules 6 and 10): the original goes on or dies, the copy is told to go on, and the hour comes. What was sent is
# adopted, what was not is sent by one of the two. Campaigns that are not scheduled are in 034_campaign_restore.pl.

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 8);
my ($sim, $node) = @$crm{qw(sim node)};
my $copies = 0;
my $twice = 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1';
# an audience of some age: in a copy its statuses are read before anything is pushed
$crm->later(700);

sub schedule
{
	my ($where, $campaign, $at, $hold) = @_;
	$where->mia("SELECT mc_schedule_campaign($campaign, to_timestamp($at)" . ($hold ? ', true)' : ')'));
}

sub scheduled
{
	my ($name, $keys, $hold) = @_;
	my $campaign = $crm->campaign($name, $keys);
	my $at = $crm->quarter(3600);
	schedule($crm, $campaign, $at, $hold);
	$crm->wait_status($campaign, 'scheduled');
	return ($campaign, $at);
}

sub resumed
{
	my ($dump) = @_;
	my $copy = $crm->restore($dump, 'copy' . ++$copies);
	$copy->ada('SELECT mc_resume()');
	$copy->run_engine;
	return $copy;
}

# it is sent, and who got it is known
sub wait_sent
{
	my ($where, $campaign) = @_;
	$where->wait_status($campaign, 'sent');
	$node->wait_until("SELECT goal IS NULL FROM mailchimp_sync.campaign WHERE campaign_id = $campaign", db => $where->{db});
}

for my $hold (0, 1)
{
	my $how = $hold ? 'held by us' : 'by Mailchimp';

	# ---- the original goes on

	my ($campaign, $at) = scheduled("On $hold", '{1,2}', $hold);
	my $dump = $crm->dump;
	$crm->both_at($at + 1);
	wait_sent($crm, $campaign);
	is($crm->remains("On $hold"), $twice, "$how: sent by the original");
	my $copy = resumed($dump);
	wait_sent($copy, $campaign);
	is($copy->recipients($campaign), '1 sent, 2 sent', 'N14: adopted by the copy, with who got it');
	is($copy->column($campaign, 'mailchimp_id'), $crm->column($campaign, 'mailchimp_id'), 'as the one that it is');
	$copy->break_off;
	is($crm->remains("On $hold"), $twice, 'N3: sent once');

	# ---- the original takes it back

	($campaign, $at) = scheduled("Back $hold", '{1,2}', $hold);
	$dump = $crm->dump;
	$crm->mia("SELECT mc_delete_campaign($campaign)");
	$crm->wait_status($campaign, 'deleted');
	is($crm->remains("Back $hold"), 'campaigns 0 sends 0 segments 0', "$how: deleted by the original");
	$copy = resumed($dump);
	if ($hold)
	{
		# what the copy was told to hold it still holds, until somebody says otherwise there
		$copy->mia("SELECT mc_cancel_campaign($campaign)");
		$copy->wait_status($campaign, 'canceled');
	}
	else
	{
		$copy->mia("SELECT mc_poll_campaign($campaign)");
		$copy->wait_status($campaign, 'deleted');
	}
	$copy->break_off;
	is($crm->remains("Back $hold"), 'campaigns 0 sends 0 segments 0', 'nothing comes back');

	# ---- the original dies: the hour comes in the copy, and who opts out there is not mailed

	($campaign, $at) = scheduled("Dies $hold", '{1,2,' . (3 + $hold) . '}', $hold);
	$dump = $crm->dump;
	$crm->break_off;
	$copy = resumed($dump);
	$copy->mia("SELECT mc_opt_out('candidate', " . (3 + $hold) . ')');
	$node->wait_until("SELECT status = 'scheduled' AND goal IS NULL AND NOT EXISTS (SELECT FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = $campaign AND r.status = 'skipped' AND r.segment_email IS NOT NULL)
		FROM mailchimp_sync.campaign WHERE campaign_id = $campaign", db => $copy->{db}) if $hold;
	# what is at Mailchimp is looked for until nothing of the original can land any more, which our clock decides
	McTest::poll('the correction to begin', sub { $copy->column($campaign, 'status') eq 'preparing' }) unless $hold;
	$copy->wait_status($campaign, 'scheduled');
	$crm->both_at($at + 1);
	wait_sent($copy, $campaign);
	is($crm->remains("Dies $hold"), $twice, "N2, D12: $how: sent once, by the copy, and not to who opted out there");
	is($copy->recipients($campaign), '1 sent, 2 sent, ' . (3 + $hold) . ' skipped opted_out', 'everybody has one status');
	$copy->break_off;
	$crm->later(140);
	$crm->run_engine;
	wait_sent($crm, $campaign);
	is($crm->remains("Dies $hold"), $twice, 'the original comes back, and adopts it');

	# ---- a copy of the draft sends what the original has scheduled

	$campaign = $crm->campaign("Draft $hold", '{1,2}');
	$dump = $crm->dump;
	schedule($crm, $campaign, $at = $crm->quarter(3600), $hold);
	$crm->wait_status($campaign, 'scheduled');
	$crm->break_off;
	$copy = $crm->restore($dump, 'copy' . ++$copies);
	$copy->ada('SELECT mc_resume()');
	$copy->mia("SELECT mc_send_campaign($campaign)");
	$copy->run_engine;
	wait_sent($copy, $campaign);
	is($crm->remains("Draft $hold"), $twice, "$how: the copy found it, took its schedule back and sent it");
	$copy->break_off;
	$crm->later(140);
	$crm->run_engine;
	$crm->both_at($at + 1);
	wait_sent($crm, $campaign);
	is($crm->remains("Draft $hold"), $twice, 'and the original, at its hour, does not send it again');
}

$node->stop;
done_testing();
