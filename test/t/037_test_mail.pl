# Test mails: of what, to whom, never to somebody who opted out, and never twice by themselves.

use strict;
use warnings;
use McCampaign;
use JSON::PP ();
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 8);
my ($sim, $node) = @$crm{qw(sim node)};
my @path = (method => 'POST', path => '/actions/test$');
my $last = 0;

# Who got test mails of that campaign.
sub tested
{
	my ($campaign) = @_;
	my $id = $crm->column($campaign, 'mailchimp_id');
	return join ' ', sort map { $_->{email} } grep { $_->{campaign} eq $id } @{ $sim->get('/_sim/mails')->{tests} };
}

sub wait_tested { my ($campaign, $emails) = @_; McTest::poll("test mails to $emails", sub { tested($campaign) eq $emails }) }
sub ask { my ($campaign, $emails, $more) = @_; $crm->mia("SELECT mc_test_campaign($campaign, '{$emails}')" . ($more // '')) }
sub refused { my ($campaign, $emails) = @_; return $node->error("SELECT mc_test_campaign($campaign, '{$emails}')", as => 'mia') }
sub failure { my ($campaign) = @_; return $crm->mia("SELECT title || ': ' || detail FROM mc_failure WHERE work = 'campaign' AND campaign_id = $campaign") }

# Moves our clock where something waits for time to pass.
sub wait_failure
{
	my ($campaign, $pattern, $later) = @_;
	McTest::poll("the failure $pattern", sub {
		return 1 if failure($campaign) =~ $pattern;
		$crm->later($later) if $later;
		return 0;
	});
}

sub requests { my @found = $sim->journal(@path, since => $last); return scalar @found }
sub from_here { ($last) = sort { $b <=> $a } 0, map { $_->{n} } $sim->journal }
sub idle { $node->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.test_mail) AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight WHERE doubt_at IS NULL)') }

sub prepared
{
	my ($name) = @_;
	my $campaign = $crm->campaign($name, '{1,2}');
	$crm->mia("SELECT mc_prepare_campaign($campaign)");
	$crm->wait_status($campaign, 'prepared');
	return $campaign;
}

# ---- of what: a campaign that is at Mailchimp and not sent; the way there is named

my $campaign = $crm->campaign('Draft', '{1}');
like(refused($campaign, 'boss@example.org'), qr/55000: cannot test campaign $campaign: it is draft\n.*HINT:  Make it at Mailchimp first: mc_prepare_campaign\($campaign\)\./s, 'a draft is not there');
$sim->hold(method => 'POST', path => '/segments$', when => 'before');
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$sim->wait_held;
like(refused($campaign, 'boss@example.org'), qr/it is preparing\n.*Wait until it is prepared/s, 'nor one that is on its way');
$crm->mia("SELECT mc_opt_out('candidate', 1)");
$sim->release;
$crm->wait_status($campaign, 'failed');
like(refused($campaign, 'boss@example.org'), qr/it is failed, and not made at Mailchimp yet\n.*mc_prepare_campaign\($campaign\)/s, 'nor one that failed before it was made');
$crm->mia("SELECT mc_opt_in('candidate', 1), mc_cancel_campaign($campaign)");
$crm->wait_status($campaign, 'canceled');
like(refused($campaign, 'boss@example.org'), qr/it is canceled/, 'nor one that is canceled');

$campaign = prepared('Spring');
like(refused($campaign, $$_[0]), qr/$$_[1]/, "refused: $$_[1]")
  for ['', '22023: a test mail needs an address'], ['boss', '22023: "boss" is not an e-mail address'], ['boss@example.org,NULL', '22023: "null" is not an e-mail address'],
  ['boss@example.org, Boss@Example.org', '22023: address "boss@example.org" is given twice'];
like($node->error("SELECT mc_test_campaign($campaign, NULL)", as => 'mia'), qr/a test mail needs an address/, 'nobody at all');

# ---- an intent: a rollback leaves no trace (N1); members or not, they are mailed once, and nothing else happens to the campaign

$crm->mia("BEGIN; SELECT mc_test_campaign($campaign, '{boss\@example.org}'); ROLLBACK");
$crm->mia('CALL mc_run()');
is(requests(), 0, 'N1: nothing leaves for a transaction that was rolled back');
ask($campaign, ' boss@example.org ,p1@example.org');
wait_tested($campaign, 'boss@example.org p1@example.org');
idle();
is($sim->get('/_sim/mails', campaign => $crm->column($campaign, 'mailchimp_id'))->{total}, 0, 'and nobody else is mailed');
is_deeply([ map { $_->{body}{send_type} } $sim->journal(@path) ], ['html'], 'by one request');
is($crm->column($campaign, 'status') . failure($campaign), 'prepared', 'the campaign is as before');

# ---- nobody who opted out, by whatever way, also in the last moment (N2)

$crm->mia("SELECT mc_opt_out_email('left\@example.org'), mc_opt_out('candidate', 7)");
$crm->ada("UPDATE candidate SET email = 'moved7\@example.org' WHERE id = 7");
$node->wait_until("SELECT EXISTS (SELECT FROM mc_contact_state WHERE contact_key = '7' AND email = 'moved7\@example.org' AND state = 'opted_out')");
$crm->ada("SELECT mc_erase_contact('gone\@example.org')");
from_here();
like(refused($campaign, $$_[0]), qr/55000: no test mail is sent: $$_[1] addresses opted out\n.*Leave them out/s, "refused: $$_[2]")
  for ['boss@example.org,LEFT@example.org', '1 of 2', 'an address'], ['p7@example.org,moved7@example.org', '2 of 2', 'a contact, with its former address and with its present one'],
  ['gone@example.org', '1 of 1', 'somebody who was erased'];
$crm->ada("SELECT mc_pause('demo', 'customers')");
ask($campaign, 'boss@example.org,late@example.org');
$crm->mia("SELECT mc_opt_out_email('late\@example.org')");
$crm->ada("SELECT mc_resume(audience => 'customers')");
wait_failure($campaign, qr/^test mail: not sent: 1 of 2 addresses opted out; ask again without them$/);
is(requests(), 0, 'N2: who opts out before the request is not mailed');
my $session = $node->session(as => 'mia');
my $pid = $session->query("BEGIN; SELECT pg_backend_pid() FROM (SELECT mc_opt_out_email('open\@example.org')) o");
ask($campaign, 'open@example.org');
wait_failure($campaign, qr/^test mail: waiting for open transactions that opt somebody out: process $pid\b/);
$crm->mia("SELECT mc_opt_out_email('another\@example.org')");
$session->query('COMMIT');
$session->quit;
wait_failure($campaign, qr/^test mail: not sent: 1 of 1 addresses opted out/, 1);
is(requests(), 0, 'N2: who is opting out is waited for, and not mailed');
ask($campaign, 'boss@example.org');
McTest::poll('the failure to go', sub { failure($campaign) eq '' });
is(requests(), 1, 'the next one goes, and what failed is over');

# a training connection mails only its own addresses (R15, N18)
$crm->ada(q{SELECT mc_alter_connection('demo', '{"only_addresses": ["P1@example.org", "p2@example.org"]}')});
like(refused($campaign, 'boss@example.org,p1@example.org'), qr/1 of 2 addresses are not among those of the training connection/, 'R15: nobody else');
ask($campaign, 'p1@example.org');
idle();
$crm->ada(q{SELECT mc_alter_connection('demo', '{"only_addresses": null}')});
is(requests(), 2, 'R15: who is among them gets it');

# ---- not repeated after doubt, tried again where nothing was done, refused in Mailchimp's words

$campaign = prepared('Doubt');
for my $fault (qw(reset_before reset_after html_504_after))
{
	my $before = tested($campaign);
	from_here();
	$sim->fault(@path, fault => $fault);
	ask($campaign, 'boss@example.org');
	wait_failure($campaign, qr/^test mail: nobody knows whether it arrived; if it did not, ask again with mc_test_campaign$/);
	idle();
	is(requests(), 1, "$fault: not repeated");
	is(tested($campaign), join(' ', grep { $_ } $before, $fault eq 'reset_before' ? () : 'boss@example.org'), "$fault: as often as it arrived");
}
ask($campaign, 'p1@example.org');
wait_tested($campaign, 'boss@example.org boss@example.org p1@example.org');
idle();
is(failure($campaign), '', 'asked again, it is well');
for my $fault ('bare_429', { type => 'status', status => 500, json => JSON::PP::true })
{
	from_here();
	$sim->fault(@path, fault => $fault);
	ask($campaign, 'p2@example.org');
	McTest::poll('the second request', sub { $crm->later(5); requests() == 2 });
	idle();
	is(failure($campaign), '', 'tried again, and well');
}
is(tested($campaign), 'boss@example.org boss@example.org p1@example.org p2@example.org p2@example.org', 'once each');
from_here();
$sim->fault(@path, fault => { type => 'status', status => 400, json => JSON::PP::true });
ask($campaign, 'p2@example.org');
wait_failure($campaign, qr/^test mail: (?!nobody|not sent|waiting)\w/);
is(requests(), 1, "refused once, in Mailchimp's words: " . failure($campaign));
from_here();
$sim->fault(@path, times => -1, fault => 'bare_403');
ask($campaign, 'p2@example.org');
McTest::poll('a long rest', sub {
	$crm->later(60);
	$crm->mia("SELECT EXISTS (SELECT FROM mc_failure WHERE campaign_id = $campaign AND next_attempt_at > last_failed_at + interval '20 seconds')") eq 't';
});
my $so_far = requests();
$crm->mia("SELECT mc_retry('customers')");
McTest::poll('mc_retry to end the rest', sub { requests() > $so_far });
wait_failure($campaign, qr/^test mail: given up: /, 300);
is(requests(), 10, 'what keeps failing is given up');
$sim->delete('/_sim/faults');
$sim->post('/_sim/act', { campaign => $crm->column($campaign, 'mailchimp_id'), action => 'delete' });
ask($campaign, 'p2@example.org') if $crm->column($campaign, 'status') eq 'prepared';
wait_failure($campaign, qr/^test mail: the campaign is gone at Mailchimp$/);
pass('deleted at Mailchimp: said so');

# ---- a crash while it is under way is doubt, too

$campaign = prepared('Crash');
from_here();
$sim->hold(@path, when => 'after');
ask($campaign, 'boss@example.org');
$sim->wait_held;
$crm->break_off(1);
$sim->release;
$crm->run_engine;
wait_failure($campaign, qr/^test mail: nobody knows whether it arrived/);
idle();
is(tested($campaign) . ' ' . requests(), 'boss@example.org 1', 'not repeated after a crash');

# ---- it does not hold up the campaign, and shows changed settings

from_here();
ask($campaign, 'p1@example.org', ", mc_alter_campaign($campaign, '{\"subject\": \"Newest\"}')");
wait_tested($campaign, 'boss@example.org p1@example.org');
$crm->wait_status($campaign, 'prepared');
is_deeply([ map { "$_->{method} " . ($_->{path} =~ s{.*/}{}r) } grep { $_->{route} =~ m{^(PATCH /campaigns|POST .*/test$)} } $sim->journal(since => $last) ],
	[ 'PATCH ' . $crm->column($campaign, 'mailchimp_id'), 'POST test' ], 'changed settings first');
from_here();
$sim->hold(@path, when => 'before');
ask($campaign, 'p3@example.org');
$sim->wait_held;
ask($campaign, 'p4@example.org');
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
$sim->release;
wait_failure($campaign, qr/^test mail: not sent: the campaign is sent$/);
is(tested($campaign), 'boss@example.org p1@example.org p3@example.org', 'one at a time; what comes too late is not sent');
like(refused($campaign, 'boss@example.org'), qr/it is sent/, 'nor asked for');

# ---- stopped with the campaign; not in a dump

$campaign = prepared('Stopped');
from_here();
ask($campaign, 'boss@example.org', ", mc_cancel_campaign($campaign)");
$crm->wait_status($campaign, 'canceled');
idle();
is(requests() . failure($campaign), '0', 'canceled: no test mail, and nothing failed');
$campaign = prepared('Forgotten');
$crm->ada("SELECT mc_pause('demo', 'customers')");
from_here();
ask($campaign, 'boss@example.org,gone@example.com');
ask($campaign, 'p4@example.org');
$crm->ada("SELECT mc_erase_contact('gone\@example.com')");
wait_failure($campaign, qr/^test mail: an address opted out before it was sent$/);
is($crm->super("SELECT string_agg(emails::text, ' ') FROM mailchimp_sync.test_mail"), '{p4@example.org}', 'who is erased is forgotten here, too');
$crm->super('SELECT mailchimp_sync.campaigns_restored()');
is($crm->super("SELECT count(*) FROM mailchimp_sync.test_mail"), 0, 'a copy of the database sends none');
ask($campaign, 'p4@example.org');
$node->query("SELECT mc_disconnect('demo'); SELECT mc_connect('demo', 'demo-us1', endpoint => '" . $sim->url . "')");
$crm->ada("SELECT mc_resume(audience => 'customers')");
idle();
is(requests(), 0, 'nor a connection that is made anew');
is($crm->super("SELECT 'mailchimp_sync.test_mail'::regclass = ANY (extconfig) FROM pg_extension WHERE extname = 'mailchimp_sync'"), 'f', 'a dump does not take them along');

$node->stop;
done_testing();
