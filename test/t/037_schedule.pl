# A campaign that is sent at a given time (R28, D5, D6, D12): by Mailchimp or, held, by the engine; opting out while it
# waits; other wishes meanwhile; a plan without scheduling; hours that pass.

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 12, worker => 1);
my ($sim, $node) = @$crm{qw(sim node)};

sub iso { return $crm->iso(@_) }
sub schedule { return $crm->schedule(@_) }
sub scheduled { return $crm->scheduled(@_) }
sub there { return $crm->there(@_) }
sub routes { return $crm->actions(@_) }
sub last_request { return $crm->last_request }

# ---- D6: which times are taken

my $campaign = $crm->campaign('Times', '{1,2}');
my $quarter = $crm->quarter(3600);
like($node->error("SET timezone = 'UTC'; SELECT mc_schedule_campaign($campaign, to_timestamp($quarter + 60))", as => 'mia'),
	qr/Mailchimp sends at full quarters of an hour, not at .*\nHINT:  The nearest are @{[POSIX::strftime('%Y-%m-%d %H:%M:00\\+00', gmtime $quarter)]} and @{[POSIX::strftime('%Y-%m-%d %H:%M:00\\+00', gmtime $quarter + 900)]}; with hold/m,
	'D6: the two nearest quarters are named');
like($node->error("SELECT mc_schedule_campaign($campaign, to_timestamp($quarter - 86400))", as => 'mia'), qr/ is over\nHINT:  mc_send_campaign sends it now/,
	'D6: a time that is over is refused');
like($node->error("SELECT mc_schedule_campaign($campaign, to_timestamp($quarter - 86400), true)", as => 'mia'), qr/ is over/, 'held, too');
like($node->error("SELECT mc_schedule_campaign($campaign, '$_')", as => 'mia'), qr/a campaign is scheduled for a certain time/, "not $_")
  for qw(infinity -infinity);
like($node->error("SELECT mc_schedule_campaign($campaign, NULL)", as => 'mia'), qr/a campaign is scheduled for a certain time/, 'nor at no time');
is($crm->column($campaign, 'status'), 'draft', 'nothing has happened to it');

# ---- R28: the same processing, then scheduled; sent at its hour

my $since = last_request();
schedule($campaign, $quarter);
$crm->wait_status($campaign, 'scheduled');
is($crm->column($campaign, "concat_ws(' ', extract(epoch FROM scheduled_for), mailchimp_status)"), "$quarter.000000 schedule", 'R28: scheduled for that time');
is(there($campaign), "schedule " . iso($quarter) . ' 0', 'at Mailchimp, too, and not sent');
is($crm->column($campaign, 'extract(epoch FROM next_poll_at) <= ' . $quarter), 't', 'looked at no later than at its hour');
$crm->both_at($quarter - 10);
is($crm->column($campaign, 'status'), 'scheduled', 'it waits');
$crm->both_at($quarter + 1);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Times'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'sent once');
is($crm->recipients($campaign), '1 sent, 2 sent', 'and to whom is known');
is(routes($since), 'schedule', 'by Mailchimp alone');

# ---- D12: who opts out while it is scheduled is taken out, though the segment is frozen there

($campaign, $quarter) = scheduled('Late', '{1,2,3,4}', 3600);
$since = last_request();
$crm->mia("SELECT mc_opt_out('candidate', 3)");
$sim->wait_requests(1, since => $since, path => '/actions/schedule$');
$crm->wait_status($campaign, 'scheduled');
is(routes($since), 'unschedule schedule', 'D12: taken back, corrected, scheduled anew');
is(there($campaign), 'schedule ' . iso($quarter) . ' 0', 'for the same hour');
is($crm->recipients($campaign), '1 pending, 2 pending, 3 skipped opted_out, 4 pending', 'skipped');

# the flag of the CRM does the same
$since = last_request();
$crm->ada('UPDATE candidate SET opted_out = true WHERE id = 4');
$sim->wait_requests(1, since => $since, path => '/actions/schedule$');
$crm->wait_status($campaign, 'scheduled');
$crm->both_at($quarter + 1);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Late'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'N2: neither of them is mailed');

# while the audience is paused, too: nobody who opted out is mailed because of that
($campaign, $quarter) = scheduled('Paused', '{1,2,9}', 3600);
$crm->ada("SELECT mc_pause('demo', 'customers')");
$crm->mia("SELECT mc_opt_out('candidate', 9)");
$crm->wait_status($campaign, 'preparing');
McTest::poll('it to be taken back', sub { there($campaign) eq 'paused never 0' });
$crm->ada("SELECT mc_resume('demo', 'customers')");
$crm->wait_status($campaign, 'scheduled');
is(there($campaign), 'schedule ' . iso($quarter) . ' 0', 'after the pause it is scheduled again');
$crm->both_at($quarter + 1);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Paused'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'and sent to the others');

# ---- the hour comes before it can be taken back: reported as it was

# Mailchimp knows of the opt-out in time, and leaves them out itself; or of neither
for my $knows (1, 0)
{
	my $last = 6 - $knows;
	($campaign, $quarter) = scheduled("Close $knows", "{1,2,$last}", 3600);
	$sim->hold(method => 'POST', path => '/actions/unschedule$', when => 'before');
	$sim->hold(method => 'PATCH', path => '/members/', when => 'before') unless $knows;
	$since = last_request();
	$crm->mia("SELECT mc_opt_out('candidate', $last)");
	$sim->wait_held($knows ? 1 : 2);
	$sim->wait_requests(1, since => $since, method => 'PATCH', path => '/members/') if $knows;
	$sim->post('/_sim/clock', { now => iso($quarter + 1) });
	is(there($campaign), 'sent never 1', 'its hour has come there');
	$sim->release;
	$crm->wait_status($campaign, 'sent');
	my $end = $knows ? 'skipped opted_out' : 'sent';
	McTest::poll('who got it to be read', sub { $crm->super("SELECT goal IS NULL FROM mailchimp_sync.campaign WHERE campaign_id = $campaign") eq 't' });
	is($crm->recipients($campaign), "1 sent, 2 sent, $last $end", 'who got it is what Mailchimp says');
	is($crm->mia("SELECT detail FROM mc_campaign_recipient WHERE campaign_id = $campaign AND contact_key = '$last'"),
		$knows ? '' : 'opted out when it was too late', 'who opted out too late is reported as such (D12)');
	is($crm->remains("Close $knows"), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1' . ($knows ? '' : " p$last\@example.org=1"),
		'sent once');
	$crm->both_at($quarter + 1);
}

# in time, and corrected when the hour is over: sent at once
($campaign, $quarter) = scheduled('Passed', '{1,2,7}', 3600);
$sim->hold(method => 'POST', path => '/actions/unschedule$', when => 'after');
$crm->mia("SELECT mc_opt_out('candidate', 7)");
$sim->wait_held;
$crm->both_at($quarter + 60);
$sim->release;
$crm->wait_status($campaign, 'sent');
is($crm->remains('Passed'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'sent as soon as it is corrected');

# ---- other wishes

($campaign, $quarter) = scheduled('Back', '{1,2}', 3600);
like($node->error("SELECT mc_alter_campaign($campaign, '{\"subject\": \"x\"}')", as => 'mia'),
	qr/cannot alter campaign $campaign: it is scheduled\nHINT:  Take it back first with mc_unschedule_campaign/, 'not to be changed while scheduled');
$crm->mia("SELECT mc_unschedule_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
is(there($campaign) . ' ' . $crm->column($campaign, 'scheduled_for IS NULL'), 'paused never 0 t', 'taken back');
$crm->both_at($quarter + 60);
schedule($campaign, $quarter = $crm->quarter(3600));
$crm->wait_status($campaign, 'scheduled');
schedule($campaign, $quarter += 900);
McTest::poll('the other time', sub { there($campaign) eq 'schedule ' . iso($quarter) . ' 0' });
$crm->wait_status($campaign, 'scheduled');
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
is($crm->remains('Back'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'sent now instead');
$crm->both_at($quarter + 60);
is(there($campaign), 'sent never 1', 'and not again at its hour');

# the order is under way when something else is wanted
for my $verb (qw(send unschedule cancel later))
{
	$campaign = $crm->campaign("Under way $verb", '{1,2}');
	$quarter = $crm->quarter(3600);
	$sim->hold(method => 'POST', path => '/actions/schedule$', when => 'after');
	schedule($campaign, $quarter);
	$sim->wait_held;
	$verb eq 'later' ? schedule($campaign, $quarter + 900) : $crm->mia("SELECT mc_${verb}_campaign($campaign)");
	$sim->release;
	$crm->wait_status($campaign, { send => 'sent', unschedule => 'prepared', cancel => 'canceled', later => 'scheduled' }->{$verb});
	is($crm->remains("Under way $verb"), { send => 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1',
			unschedule => 'campaigns 1 sends 0 segments 1', cancel => 'campaigns 0 sends 0 segments 0',
			later => 'campaigns 1 sends 0 segments 1' }->{$verb}, "$verb while the order to schedule is under way");
}
is(there($campaign), 'schedule ' . iso($quarter + 900) . ' 0', 'the last wish counts');

for my $verb (qw(cancel delete))
{
	($campaign) = scheduled("To $verb", '{1,2}', 3600);
	$crm->mia("SELECT mc_${verb}_campaign($campaign)");
	$crm->wait_status($campaign, "${verb}d" =~ s/canceld/canceled/r);
	is($crm->remains("To $verb"), 'campaigns 0 sends 0 segments 0', "R35: $verb of a scheduled one leaves nothing");
}

# ---- held: any minute, fresh data, and nothing is scheduled at Mailchimp

$since = last_request();
$campaign = $crm->campaign('Held', '{1,2,8}');
my $at = $crm->quarter(3600) + 61;
schedule($campaign, $at, 1);
$crm->wait_status($campaign, 'scheduled');
is(there($campaign), 'save never 0', 'held: prepared there');
$crm->mia("SELECT mc_opt_out('candidate', 8)");
McTest::poll('the one who opted out to leave the segment', sub { $crm->super("SELECT count(*) FROM mailchimp_sync.recipient WHERE campaign_id = $campaign AND segment_email IS NOT NULL") == 2 });
$crm->both_at($at - 5);
is($crm->column($campaign, 'status'), 'scheduled', 'it waits for its minute');
$crm->ada("UPDATE candidate SET first_name = 'Last minute' WHERE id = 1");
$crm->both_at($at);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Held'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'sent by the engine');
is(routes($since), 'send', 'nothing was scheduled');
is((grep { $_->{email_address} eq 'p1@example.org' } @{ $sim->get("/_sim/lists/$crm->{list}/members")->{members} })[0]{merge_fields}{FNAME},
	'Last minute', 'with fresh data (R32)');

# taken back, and too late
$campaign = $crm->campaign('Held back', '{1,2}');
schedule($campaign, $at = $crm->quarter(3600) + 61, 1);
$crm->wait_status($campaign, 'scheduled');
$crm->mia("SELECT mc_unschedule_campaign($campaign)");
is($crm->column($campaign, "concat_ws(' ', status, scheduled_for)"), 'prepared', 'taken back at once');
schedule($campaign, $at, 1);
$crm->wait_status($campaign, 'scheduled');
$crm->ada("SELECT mc_pause('demo', 'customers')");
$crm->both_at($at + 3605);
$crm->ada("SELECT mc_resume('demo', 'customers')");
$crm->wait_status($campaign, 'failed');
like($crm->column($campaign, 'last_error'), qr/^too late: it was to be sent at \d{4}-\d\d-\d\d \d\d:\d\d UTC, and could not be; mc_send_campaign sends it now/,
	'an hour too late it is not sent, and says so');
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
is($crm->remains('Held back'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'unless somebody wants it');

# ---- a plan without scheduling: the reason, and the way out (R34, R35)

$sim->post('/_sim/accounts', { key => 'free-us2', plan => 'free', lists => [ { name => 'Friends' } ], templates => [ { name => 'Newsletter' } ],
		domains => [ { domain => 'example.org' } ] });
$node->query("SELECT mc_connect('free', 'free-us2', endpoint => '" . $sim->url . "')");
$crm->ada("SELECT mc_create_audience('friends', 'free', 'Friends', 'candidate', 'id < 3'); SELECT mc_sync_audience('friends')");
$campaign = $crm->mia("SELECT mc_create_campaign('Free', 'friends', 'Newsletter', 'Mia', 'mia\@example.org')");
$crm->mia("SELECT mc_add_recipients($campaign, 'candidate', '{1,2}')");
schedule($campaign, $at = $crm->quarter(3600));
$crm->wait_status($campaign, 'failed');
like($crm->column($campaign, 'last_error'), qr/plan does not include scheduling\. Mailchimp's plans with scheduling are Essentials and higher; mc_schedule_campaign\($campaign, '.*Z', hold => true\) has it sent at that time by this database/,
	'R34: the reason and the way out');
my ($way_out) = $crm->column($campaign, 'last_error') =~ /(mc_schedule_campaign\(.*?true\))/;
$crm->mia("SELECT $way_out");
$crm->wait_status($campaign, 'scheduled');
$crm->both_at($at + 1);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Free'), 'campaigns 1 sends 1 segments 0 p1@example.org=1 p2@example.org=1', 'R35: which works');

is($crm->mia('SELECT count(*) FROM mc_failure'), 0, 'no failure is left over');

$node->stop;
done_testing();
