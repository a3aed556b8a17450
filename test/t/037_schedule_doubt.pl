# A campaign that Mailchimp sends at its hour goes out once, to nobody who opted out (N2, N3, D12, R28, design.md rule 6), when
# nobody knows what became of the order to schedule it or to take it back, and something else is wanted by then; when the hour
# passes meanwhile; when its audience is paused, the engine dies, or it is a copy of another database that goes on.

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 20, worker => 1);
my ($sim, $node) = @$crm{qw(sim node)};
my $once = 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1';

sub set_timeout { $node->query("ALTER SYSTEM SET mailchimp_sync.request_timeout = '$_[0]'"); $node->query('SELECT pg_reload_conf()') }
sub goal_is_gone { my ($campaign) = @_; $node->wait_until("SELECT goal IS NULL FROM mailchimp_sync.campaign WHERE campaign_id = $campaign") }

sub wait_back { my ($campaign) = @_; McTest::poll('it to be taken back', sub { $crm->there($campaign) eq 'paused never 0' }) }

# The order is given up when it has not landed yet, and does land later.
sub lands_late
{
	my ($action, $campaign, $before, $meanwhile) = @_;
	my $since = $crm->last_request;
	$sim->hold(method => 'POST', path => "/actions/$action\$", when => 'before');
	$before->($campaign);
	$sim->wait_held;
	$node->wait_until("SELECT EXISTS (SELECT FROM mailchimp_sync.inflight f WHERE f.campaign_id = $campaign AND f.phase = '$action' AND f.doubt_at IS NOT NULL)");
	$meanwhile->($campaign);
	$sim->release;
	$sim->wait_requests(1, since => $since, path => "/actions/$action\$");
	return $since;
}

# ---- the order to schedule lands late, when something else is wanted

set_timeout('1s');
my ($campaign, $quarter);
my %wishes = (
	send => [ sub { $crm->mia("SELECT mc_send_campaign($_[0])") }, 'sent', $once ],
	unschedule => [ sub { $crm->mia("SELECT mc_unschedule_campaign($_[0])") }, 'prepared', 'campaigns 1 sends 0 segments 1', 'paused never 0' ],
	cancel => [ sub { $crm->mia("SELECT mc_cancel_campaign($_[0])") }, 'canceled', 'campaigns 0 sends 0 segments 0' ],
	later => [ sub { $crm->schedule($_[0], $quarter + 900) }, 'scheduled', 'campaigns 1 sends 0 segments 1', sub { 'schedule ' . $crm->iso($quarter + 900) . ' 0' } ],
	hold => [ sub { $crm->schedule($_[0], $quarter + 60, 1) }, 'scheduled', 'campaigns 1 sends 0 segments 1', 'paused never 0' ],
	'opt out' => [ sub { $crm->mia("SELECT mc_opt_out('candidate', 3)") }, 'scheduled', 'campaigns 1 sends 0 segments 1', sub { 'schedule ' . $crm->iso($quarter) . ' 0' } ]);
for my $wish (sort keys %wishes)
{
	my ($want, $status, $remains, $there) = @{ $wishes{$wish} };
	$campaign = $crm->campaign("Late $wish", $wish eq 'opt out' ? '{1,2,3}' : '{1,2}');
	$quarter = $crm->quarter(7200);
	lands_late('schedule', $campaign, sub { $crm->schedule($_[0], $quarter) }, $want);
	$crm->wait_status($campaign, $status);
	if ($wish eq 'opt out')
	{
		McTest::poll('it to be corrected', sub { $crm->super("SELECT bool_and(c.status = 'scheduled' AND c.goal IS NULL) AND bool_and(r.segment_email IS NULL)
			FROM mailchimp_sync.campaign c JOIN mailchimp_sync.recipient r USING (campaign_id) WHERE campaign_id = $campaign AND r.contact_key = '3'") eq 't' });
	}
	is($crm->remains("Late $wish"), $remains, "$wish while nobody knows whether it is scheduled");
	is($crm->there($campaign), ref $there ? $there->() : $there, 'and so it is there') if $there;
	if ($wish eq 'opt out')
	{
		$crm->both_at($quarter + 1);
		$crm->wait_status($campaign, 'sent');
		is($crm->remains("Late $wish"), $once, 'N2: and not sent to who opted out');
	}
	$crm->later(140);	# those that nobody answered count against the slots
}

# ---- the order to take it back lands late: not repeated before it has, and corrected, or stopped, or too late

for my $end (qw(corrected canceled sent))
{
	my $out = { corrected => 4, canceled => 5, sent => 6 }->{$end};
	($campaign, $quarter) = $crm->scheduled("Back $end 2", "{1,2,$out}", 7200);
	my $since = lands_late('unschedule', $campaign, sub { $crm->mia("SELECT mc_opt_out('candidate', $out)") },
		$end eq 'corrected' ? sub { } : $end eq 'canceled' ? sub { $crm->mia("SELECT mc_cancel_campaign($_[0])") }
		: sub { $sim->post('/_sim/clock', { now => $crm->iso($quarter + 1) }) });
	$crm->wait_status($campaign, { corrected => 'scheduled', canceled => 'canceled', sent => 'sent' }->{$end});
	goal_is_gone($campaign);
	is($crm->remains("Back $end 2"), { corrected => 'campaigns 1 sends 0 segments 1', canceled => 'campaigns 0 sends 0 segments 0', sent => $once }->{$end},
		"the order to take it back lands late: $end");
	like($crm->actions($since), { corrected => qr/^unschedule schedule$/, canceled => qr/^unschedule$/, sent => qr/^unschedule$/ }->{$end}, 'it is given once');
	is($crm->recipients($campaign), "1 sent, 2 sent, $out skipped opted_out", 'N2: who got it') if $end eq 'sent';
	$end eq 'sent' ? $crm->both_at($quarter + 1) : $crm->later(140);
}
set_timeout('125s');

# ---- its audience is paused, and Mailchimp is going to send it: it is stopped all the same

# the engine dies at the order to schedule
$campaign = $crm->campaign('Crash', '{1,2,7}');
$quarter = $crm->quarter(7200);
$sim->hold(method => 'POST', path => '/actions/schedule$', when => 'after');
$crm->schedule($campaign, $quarter);
$sim->wait_held;
$crm->ada("SELECT mc_pause('demo', 'customers')");
$node->kill_worker;
$sim->release;
$crm->mia("SELECT mc_opt_out('candidate', 7)");
wait_back($campaign);
$crm->ada("SELECT mc_resume('demo', 'customers')");
$crm->wait_status($campaign, 'scheduled');
$crm->both_at($quarter + 1);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Crash'), $once, 'N2: nobody knew whether it was scheduled, and it is taken back for who opted out');

($campaign, $quarter) = $crm->scheduled('Stop', '{1,2}', 3600);
$crm->ada("SELECT mc_pause('demo', 'customers')");
$crm->mia("SELECT mc_cancel_campaign($campaign)");
wait_back($campaign);
$crm->both_at($quarter + 1);
$crm->ada("SELECT mc_resume('demo', 'customers')");
$crm->wait_status($campaign, 'canceled');
is($crm->remains('Stop'), 'campaigns 0 sends 0 segments 0', 'canceled while its audience is paused: not sent at its hour');

# ---- the hour passes while nothing can be done: not made up for hours later, and the reason is told

$campaign = $crm->campaign('Released', '{1,2}');
my $at = $crm->quarter(3600) + 61;
$crm->schedule($campaign, $at, 1);
$crm->wait_status($campaign, 'scheduled');
$sim->hold(method => 'GET', path => '/send-checklist$', when => 'before');
$crm->both_at($at);
$sim->wait_held;
$crm->ada("SELECT mc_pause('demo', 'customers')");
$sim->release;
$crm->both_at($at + 7300);
$crm->ada("SELECT mc_resume('demo', 'customers')");
$crm->wait_status($campaign, 'failed');
like($crm->column($campaign, 'last_error'), qr/^too late: it was to be sent at /, 'held, and released in time: not sent two hours after');
is($crm->remains('Released'), 'campaigns 1 sends 0 segments 1', 'indeed');

$campaign = $crm->campaign('Waits', '{1,2}');
$quarter = $crm->quarter(3600);
my $session = $node->session(as => 'mia');
$sim->hold(method => 'GET', path => '/send-checklist$', when => 'before');
$crm->schedule($campaign, $quarter);
$sim->wait_held;
$session->query("BEGIN; SELECT mc_opt_out_email('nobody\@example.org');");
$sim->release;
McTest::poll('the order to wait', sub { $crm->column($campaign, 'last_error') =~ /^waiting for open transactions/ });
$crm->both_at($quarter + 7300);
$crm->wait_status($campaign, 'failed');
like($crm->column($campaign, 'last_error'), qr/^too late: it was to be sent at /, 'about to be scheduled, and somebody was in the way: neither');
$session->query('ROLLBACK');
$session->quit;

# ---- taken back at the very moment at which it is released

$campaign = $crm->campaign('Moment', '{1,2}');
$crm->schedule($campaign, $crm->quarter(3600), 1);
$crm->wait_status($campaign, 'scheduled');
$crm->mia("SELECT mc_unschedule_campaign($campaign)");
$crm->super("SELECT mailchimp_sync.step_release(c) FROM mailchimp_sync.campaign c WHERE campaign_id = $campaign");
is($crm->column($campaign, "concat_ws(' ', status, last_error)"), 'prepared', 'it is prepared, and not too late for anything');

# ---- a copy that goes on takes it back for good

($campaign, $quarter) = $crm->scheduled('Copy', '{1,2}', 3600);
$crm->super('SELECT mailchimp_sync.campaigns_restored()');
$crm->mia("SELECT mc_unschedule_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
is($crm->there($campaign), 'paused never 0', 'taken back in a copy: prepared');

# ---- a contact takes an address that has opted out, while a campaign is scheduled for the one before

($campaign, $quarter) = $crm->scheduled('Address', '{1,2,8}', 7200);
$crm->mia("SELECT mc_opt_out_email('other\@example.org')");
my $since = $crm->last_request;
$crm->ada("UPDATE candidate SET email = 'other\@example.org' WHERE id = 8");
$sim->wait_requests(1, since => $since, path => '/actions/schedule$');
$crm->wait_status($campaign, 'scheduled');
$crm->both_at($quarter + 1);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Address'), $once, 'N2: not mailed at the former one either');

is($crm->mia("SELECT count(*) FROM mc_failure WHERE title IS DISTINCT FROM 'too late'"), 0, 'no other failure is left over');

$node->stop;
done_testing();
